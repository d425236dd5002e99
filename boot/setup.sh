#!/usr/bin/bash
#
# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0.  If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
#
# Makes a zone the manager's.  The zone's user-script runs it when an image boots for the first time,
# and configure.sh after it.  It can be run again, and it finds the jobs of the image before.

export PS4='[\D{%FT%TZ}] ${BASH_SOURCE}:${LINENO}: '
set -o xtrace
set -o errexit

export PATH=/opt/local/bin:/opt/local/sbin:/usr/sbin:/usr/bin:$PATH
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")

# Of all Manta zones, by TritonDataCenter/manta-scripts: tools/release --manta-scripts adds them.
# shellcheck source=/dev/null
source "$here/scripts/util.sh"
# shellcheck source=/dev/null
source "$here/scripts/services.sh"
# shellcheck source=boot/rebalancer.sh
source "$here/rebalancer.sh"

function add_commands_to_path {
    local line="export PATH=\$PATH:$MANAGER/bin"
    touch /root/.bashrc
    grep -qxF "$line" /root/.bashrc || echo "$line" >> /root/.bashrc
}

manta_common_presetup
manta_add_manifest_dir "$MANAGER"
mount_dataset
# Starts config-agent, which writes the manager's file and the registrar's, and the registrar.
manta_common2_setup rebalancer

add_commands_to_path
svccfg import "$MANAGER/smf/manifests/rebalancer.xml"

manta_common2_setup_log_rotation rebalancer
manta_common2_setup_end
announce_metrics

exit 0
