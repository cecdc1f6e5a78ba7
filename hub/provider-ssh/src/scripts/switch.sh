# Stops the agent, or starts it again: HUB, KEY, ATTEMPT and ON are set. The machine itself stays as it is.
main() {
    say begin
    [ "$(id -u)" = 0 ] || fail root "this is not root"
    alone
    [ -s "$claims/claim" ] && claim_is "$HUB" "$KEY" "$ATTEMPT" || fail absent "it has no such machine"
    [ -e "$claims/installed" ] || fail other "its installation was interrupted"
    if [ "$ON" = yes ]; then
        rm -f "$claims/stopped"
        if [ -e /etc/blueprint-agent/bootstrap.env ]; then
            systemctl start --no-block blueprint-bootstrap.service || fail other "systemd does not start the bootstrap"
        else
            systemctl enable --quiet --now blueprint-agent.service || fail other "systemd does not start the agent"
        fi
    else
        : >"$claims/stopped" && chmod 0644 "$claims/stopped" && sync "$claims"
        timeout 15 systemctl stop blueprint-bootstrap.service blueprint-agent.service ||
            systemctl kill --signal=KILL blueprint-bootstrap.service blueprint-agent.service
        systemctl disable --quiet blueprint-agent.service
    fi
    say done
}
main </dev/null
