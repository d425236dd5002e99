# shellcheck shell=bash
# Stands in for TritonDataCenter/manta-scripts: the functions that boot/ calls, without SmartOS.
SAPI_URL=$(mdata-get SAPI_URL)
export SAPI_URL

function fatal {
    echo "fatal error: $*" >&2
    exit 1
}
