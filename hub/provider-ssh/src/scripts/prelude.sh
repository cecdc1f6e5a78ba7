# What every script begins with. Output is for the hub: lines of `bp WORD REST`. Nothing runs before the last line of a script
# has come, so one that is cut off does nothing.
set -u
umask 077
LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
# Whoever asked may be gone: what was begun is brought to its end.
trap '' PIPE HUP
# Address and port of both ends, as sshd says them.
connection=${1:-}
claims=/etc/blueprint-host
state=/var/lib/blueprint-agent
lock=/run/blueprint-host.lock
units='blueprint-agent.service blueprint-bootstrap.service blueprint-firewall.service'

say() { printf 'bp %s\n' "$*" 2>/dev/null || :; }

fail() { # word, what is wrong
    say fail "$@"
    exit 9
}

has() { command -v "$1" >/dev/null 2>&1; }

# One at a time on this machine, whoever asks. The file is root's alone, so that nobody else can hold it; it goes with its holder,
# and who waited for one that is gone takes the next.
alone() {
    for try in 1 2 3 4 5; do
        [ ! -L "$lock" ] && command exec 9>>"$lock" && chmod 0600 "$lock" || fail other "$lock cannot be opened"
        flock -w 15 9 || fail busy "something else is being done on this host; try again"
        if [ "$lock" -ef /proc/self/fd/9 ]; then
            trap 'rm -f "$lock"' EXIT
            return
        fi
    done
    fail busy "something else is being done on this host; try again"
}

claim_is() { # hub, key, attempt
    grep -qx "hub=$1" "$claims/claim" && grep -qx "key=$2" "$claims/claim" && grep -qx "attempt=$3" "$claims/claim"
}

# An agent that no hub ordered.
is_foreign() {
    [ ! -e "$claims/claim" ] && { [ -e /etc/blueprint-agent ] || [ -e "$state" ] ||
        [ -e /etc/systemd/system/blueprint-agent.service ] || id -u blueprint-agent >/dev/null 2>&1; }
}

# What is missing for a node, in words.
lacks() {
    [ -d /run/systemd/system ] || { echo "systemd, as the first process"; return; }
    version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    [ "${version:-0}" -ge 247 ] || echo "systemd 247 or newer (it has ${version:-none})"
    for program in flock base64 sha256sum useradd userdel runuser; do
        has "$program" || echo "the program $program"
    done
    has nft || { has iptables-restore && has ip6tables-restore; } || echo "a firewall (apt-get install nftables)"
    has curl || has python3 || echo "curl or python3"
}
