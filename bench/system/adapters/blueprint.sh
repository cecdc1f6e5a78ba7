#!/bin/sh
# Hub and agents as an operator runs them: init, serve, join tokens, join, run; interface mode "tun".
#
# WB_BLUEPRINT_BIN    folder of blueprint-hub and blueprint-agent; default: those of PATH
# WB_BLUEPRINT_AGENT  further settings of the agent, as `KEY=VALUE KEY=VALUE`
# The hub's state lies in WB_DIR, which all nodes of a bring-up share; so does its socket, through which a spoke
# asks for its own join token. Nothing is left behind: WB_DIR is the harness's, and so are the namespaces.
set -eu

bin=${WB_BLUEPRINT_BIN:+$WB_BLUEPRINT_BIN/}
state=${WB_DIR:-}/hub

hub() { "${bin}blueprint-hub" --state "$state" "$@"; }

wait_for() { # what, command ...; at most 20 s
  what=$1 tries=0
  shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { echo "waited in vain for $what" >&2; exit 1; }
    sleep 0.1
  done
}

interface_is_there() { ip -o -4 addr show dev "$WB_IF" up | grep -qF " ${WB_ADDR%/*}/"; }

prep() {
  hub --set "tunnel.mtu=$WB_MTU" --set tunnel.overlay_v4=10.88.0.0/24 init --advertise "$WB_HUB_UNDERLAY"
}

run_hub() {
  exec "${bin}blueprint-hub" serve --state "$state" --set log.level=warn \
    --set tunnel.interface=tun --set "tunnel.interface_name=$WB_IF" --set tunnel.to_hub=any
}

# The hub leases addresses in the order of the joins; the harness wants certain ones.
run_spoke() {
  line=$WB_DIR/join-$WB_IDX
  wait_for "the hub" hub status
  (umask 077 && hub token create --address "${WB_ADDR%/*}" --label "spoke-$WB_IDX" >"$line")
  set -- run --state "$WB_DIR/agent-$WB_IDX" --set log.level=warn --set "agent.name=spoke-$WB_IDX" \
    --set "agent.join_file=$line" --set tunnel.interface=tun --set "tunnel.interface_name=$WB_IF"
  for setting in ${WB_BLUEPRINT_AGENT:-}; do set -- "$@" --set "$setting"; done
  exec "${bin}blueprint-agent" "$@"
}

conf() {
  wait_for "interface $WB_IF with ${WB_ADDR%/*}" interface_is_there
  [ "$WB_ROLE" = hub ] && [ "$WB_SPOKES" -gt 1 ] || return 0
  # Between spokes nothing passes by default.
  printf '[[grant]]\nname = "bench"\nfrom = ["*"]\nto = ["*"]\nallow = ["any"]\n' >"$WB_DIR/policy.toml"
  wait_for "the hub" hub status
  hub policy set "$WB_DIR/policy.toml"
}

case "${1:-}" in
  kind) echo tunnel ;;
  topo) ;;
  prep) prep ;;
  run) "run_$WB_ROLE" ;;
  conf) conf ;;
  *) echo "usage: blueprint.sh kind|topo|prep|run|conf (see the README of the harness)" >&2; exit 2 ;;
esac
