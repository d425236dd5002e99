# shellcheck shell=bash
# Stands in for TritonDataCenter/manta-scripts: the functions that boot/ calls, without SmartOS.

function manta_common_presetup {
    echo presetup >> /var/log/calls
}

function manta_add_manifest_dir {
    echo "config-agent $1" >> /var/log/calls
}

function manta_common2_setup {
    [[ $1 == rebalancer ]] || fatal "$1"
    config-agent
}

function manta_common2_setup_log_rotation {
    logadm -w "$1" -C 48 -c -p 1h -t "/var/log/manta/upload/$1_\$nodename_%Y%m%dT%H%M%S.log" \
        "/var/svc/log/*$1:default.log"
}

function manta_common2_setup_end {
    logadm -w smf_logs -C 3 -c -s 1m '/var/svc/log/*.log'
}
