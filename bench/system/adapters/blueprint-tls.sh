#!/bin/sh
# blueprint.sh with the TLS carrier forced at the agents.
export WB_BLUEPRINT_AGENT="tunnel.carriers=tls${WB_BLUEPRINT_AGENT:+ $WB_BLUEPRINT_AGENT}"
exec "$(dirname "$0")/blueprint.sh" "$@"
