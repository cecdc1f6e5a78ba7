# Says what there is; needs no right.
main() {
    say begin
    if [ -r "$claims/claim" ]; then
        while read -r line; do say claim "$line"; done <"$claims/claim"
        say agent "$(systemctl is-active blueprint-agent.service)"
        say bootstrap "$(systemctl is-active blueprint-bootstrap.service)"
        say system "$(systemctl is-system-running)"
        [ ! -e "$claims/installed" ] || say installed yes
        [ ! -e "$claims/stopped" ] || say stopped yes
    elif is_foreign; then
        say foreign yes
    fi
    lacks | while read -r line; do say lacks "$line"; done
    say arch "$(uname -m)"
    if [ "$DETECT" = yes ]; then
        say cpu "$(nproc)"
        say memory_kib "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
        say disk_kib "$(df -Pk / | sed -n '2p' | tr -s ' ' | cut -d ' ' -f 2)"
        say hostname "$(uname -n)"
        ! has nvidia-smi || nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits 2>/dev/null |
            while read -r line; do say gpu "$line"; done
        if [ "$(id -u)" = 0 ]; then say root yes; elif sudo -n true 2>/dev/null; then say root sudo; else say root no; fi
    fi
    say end
}
main </dev/null
