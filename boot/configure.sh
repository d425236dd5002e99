#!/usr/bin/bash
#
# This Source Code Form is subject to the terms of the Mozilla Public
# License, v. 2.0.  If a copy of the MPL was not distributed with this
# file, You can obtain one at https://mozilla.org/MPL/2.0/.
#
# Sees to what may have changed since the zone's last boot.  The user-script runs it at every boot.

export PS4='[\D{%FT%TZ}] ${BASH_SOURCE}:${LINENO}: '
set -o xtrace
set -o errexit

export PATH=/opt/local/bin:/opt/local/sbin:/usr/sbin:/usr/bin:$PATH
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")

# shellcheck source=/dev/null
source "$here/scripts/util.sh"
# shellcheck source=boot/rebalancer.sh
source "$here/rebalancer.sh"

mount_dataset
announce_metrics

exit 0
