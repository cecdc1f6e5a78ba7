# Claims this host, and makes it a node: HUB, KEY, ATTEMPT, CLAIM and PORTS are set, and `files` writes files with `put`.
put() { # path, mode, content in base64
    install -d -m 0755 "${1%/*}" && printf %s "$3" | base64 -d >"$1" && chmod "$2" "$1"
}

# So that nothing is left of what was not there before.
note_before() {
    for path in /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- /etc/.pwd.lock \
        /usr/local/bin /usr/local/lib /usr/local /etc/systemd/system/multi-user.target.wants; do
        [ -e "$path" ] || echo "$path"
    done >"$claims/absent.part" && mv "$claims/absent.part" "$claims/absent"
}

main() {
    say begin
    [ "$(id -u)" = 0 ] || fail root "this is not root"
    has flock || fail missing "the program flock"
    alone
    if [ -s "$claims/claim" ]; then
        grep -qx "hub=$HUB" "$claims/claim" && grep -qx "key=$KEY" "$claims/claim" ||
            fail taken "$(grep -E '^(hub|key)=' "$claims/claim" | tr '\n' ' ')"
        if [ -e "$claims/installed" ]; then
            while read -r line; do say claim "$line"; done <"$claims/claim"
            say done
            exit 0
        fi
    else
        ! is_foreign || fail foreign "an agent that no hub ordered is installed there"
    fi
    # It stays open, whatever is in between: else nobody would come back.
    own_port=${connection##* }
    case $own_port in '' | *[!0-9]*) fail other "sshd does not tell the port of this connection (SSH_CONNECTION)" ;; esac
    missing=$(lacks | tr '\n' ',')
    [ -z "$missing" ] || fail missing "${missing%,}"
    [ "$(uname -m)" = "$ARCH" ] || fail arch "the processor is $(uname -m), and the inventory says $ARCH"
    mkdir -p -m 0755 "$claims" && chmod 0755 "$claims" || fail other "$claims cannot be made"
    # The claim first, and on the disk, before anything else changes.
    [ -e "$claims/absent" ] || note_before || fail other "$claims cannot be written"
    printf %s "$CLAIM" | base64 -d >"$claims/claim.part" && chmod 0644 "$claims/claim.part" &&
        sync "$claims/claim.part" "$claims/absent" && mv "$claims/claim.part" "$claims/claim" && sync "$claims" ||
        fail other "the claim cannot be written to $claims"
    files || fail other "the agent's files cannot be written"
    for port in "$own_port" $PORTS; do echo "$port"; done >/etc/blueprint-agent/open-ports || fail other "the agent's files cannot be written"
    start || fail other "systemd did not start the bootstrap"
    : >"$claims/installed" && chmod 0644 "$claims/installed" && sync "$claims"
    while read -r line; do say claim "$line"; done <"$claims/claim"
    say done
}
