# Takes everything off this host that `install` and the agent brought: HUB, KEY and ATTEMPT are set.
stop_all() {
    systemctl disable --quiet $units 2>/dev/null
    timeout 8 systemctl stop $units 2>/dev/null && return
    systemctl kill --signal=KILL $units 2>/dev/null
    timeout 8 systemctl stop $units 2>/dev/null
}

# The id of this agent. Its folder is the agent's: what lies there is read with no more rights than it has, to an end in size and time.
agent_id() {
    file=$state/identity.json
    [ -f "$file" ] && [ ! -L "$file" ] || return 0
    timeout -k 2 5 runuser -u blueprint-agent -- head -c 65536 "$file" 2>/dev/null 9>&- |
        sed -n 's/.*"agent_id": *"\([0-9a-f-]*\)".*/\1/p' | head -n 1
}

# Of this agent alone, which labels them with its id. An engine that does not answer holds nothing up.
remove_containers() {
    node=$(agent_id)
    [ -n "$node" ] || return 0
    for engine in docker podman; do
        has "$engine" || continue
        for kind in container network volume; do
            ids=$(timeout -k 2 5 "$engine" "$kind" ls $([ "$kind" != container ] || echo --all) --quiet \
                --filter "label=blueprint.node=$node" 2>/dev/null 9>&-)
            [ -z "$ids" ] || timeout -k 2 15 "$engine" "$kind" rm --force $ids >/dev/null 2>&1 9>&-
        done
    done
}

open_firewall() {
    ! has nft || nft delete table inet blueprint 2>/dev/null
    for table in iptables ip6tables; do
        has "$table" || continue
        for pair in INPUT:BLUEPRINT OUTPUT:BLUEPRINT-OUT; do
            while "$table" -D "${pair%:*}" -j "${pair#*:}" 2>/dev/null; do :; done
            "$table" -F "${pair#*:}" 2>/dev/null && "$table" -X "${pair#*:}" 2>/dev/null
        done
    done
}

remove_user() {
    id -u blueprint-agent >/dev/null 2>&1 || return 0
    pkill -KILL -u blueprint-agent 2>/dev/null
    userdel blueprint-agent >/dev/null 2>&1
    ! id -u blueprint-agent >/dev/null 2>&1 || return 1
    # The copies that userdel keeps of these files name the user.
    for name in passwd group shadow gshadow; do
        [ ! -e "/etc/$name-" ] || cp -p "/etc/$name" "/etc/$name-"
    done
}

main() {
    say begin
    [ "$(id -u)" = 0 ] || fail root "this is not root"
    alone
    if ! [ -s "$claims/claim" ] || ! claim_is "$HUB" "$KEY" "$ATTEMPT"; then
        say done
        exit 0
    fi
    stop_all
    remove_containers
    for unit in $units; do rm -f "/etc/systemd/system/$unit"; done
    systemctl daemon-reload
    systemctl reset-failed $units 2>/dev/null
    open_firewall
    remove_user || fail other "the user blueprint-agent cannot be removed: look at what runs as that user"
    rm -rf /etc/blueprint-agent "$state" /run/blueprint-agent /usr/local/lib/blueprint-agent \
        /usr/local/bin/blueprint-agent /usr/local/bin/blueprint-agent.part || fail other "the agent's files cannot be removed"
    if [ -e "$claims/absent" ]; then
        while read -r path; do
            if [ -d "$path" ]; then rmdir "$path" 2>/dev/null; else rm -f "$path"; fi
        done <"$claims/absent"
    fi
    # The claim last: until here the removal is begun again by whoever asks.
    rm -f "$claims/installed" "$claims/stopped" "$claims/absent" "$claims"/*.part
    rm -f "$claims/claim" && rmdir "$claims" || fail other "$claims cannot be removed"
    sync /etc
    say done
}
main </dev/null
