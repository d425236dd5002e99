# shellcheck shell=bash
#
# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0.  If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
#
# What setup.sh and configure.sh have in common.  Each function may be called again and again.

MANAGER=/opt/smartdc/rebalancer
DATA=/rebalancer

# Mount the dataset that the zone was given, which keeps jobs when the zone is provisioned anew.
# Nothing on it is ever changed here.
function mount_dataset {
    local dataset mountpoint
    dataset=zones/$(zonename)/data
    mountpoint=$(zfs get -H -o value mountpoint "$dataset") ||
        fatal "the zone has no delegated dataset $dataset, without which its next image loses all jobs"
    if [[ $mountpoint != "$DATA" ]]; then
        zfs set "mountpoint=$DATA" "$dataset" || fatal "$dataset cannot be mounted at $DATA"
    fi
    if [[ $(zfs get -H -o value mounted "$dataset") != yes ]]; then
        zfs mount "$dataset" || fatal "$dataset cannot be mounted at $DATA"
    fi
}

# Say where cmon-agent finds the metrics, by the file that config-agent has written.
function announce_metrics {
    local port
    port=$(json -f "$MANAGER/config.json" metrics_port) || port=
    mdata-put metricPorts "${port:-8878}"
}
