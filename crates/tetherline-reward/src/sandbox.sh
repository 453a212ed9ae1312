# Runs "$@" where nothing it does lasts: every mount read-only, empty /tmp, /run and /dev/shm, no other processes to be
# seen, no capabilities to undo any of it. The caller has made the namespaces (no network among them) and set the limits.
# Standard input becomes the file $TETHER_FILE; "ready" on standard error says that the rest is up to "$@", whose own
# standard error goes nowhere.
set -e
mount --make-rprivate /
while read -r _ _ _ _ where options _; do
  case $options in ro | ro,*) continue ;; esac
  case $where in *\\*) where=$(printf '%b' "$where") ;; esac
  mount -o "remount,bind,ro${options#rw}" "$where" 2>/dev/null || {
    if [ -w "$where" ]; then
      echo "cannot make $where read-only" >&2
      exit 1
    fi
  }
done </proc/self/mountinfo
for dir in /tmp /var/tmp /run /dev/shm; do
  if [ -d "$dir" ] && [ ! -L "$dir" ]; then
    mount -t tmpfs -o "size=${TETHER_TMP_MB}m,mode=1777,nosuid,nodev" none "$dir"
  fi
done
mount -t proc proc /proc 2>/dev/null || mount -t tmpfs -o ro none /proc
mkdir /tmp/work
cd /tmp/work
cat >"$TETHER_FILE"
unset TETHER_FILE TETHER_TMP_MB
echo ready >&2
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@" </dev/null 2>/dev/null
