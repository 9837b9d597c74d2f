# shellcheck shell=bash
# What tests/run.sh and tests/e2e/run.sh share; not for direct use: named stages, their times, and what became of them.
STAGES=() FAILED=0 PASSED=0 SKIPPED=0
_record() { STAGES+=("$(printf '%-8s %5s s  %s' "$1" "$2" "$3")"); }
_seconds() { local ms=$((($(date +%s%N) - $1) / 1000000)); printf '%d.%d' $((ms / 1000)) $((ms % 1000 / 100)); }

# stage NAME CMD...: runs CMD in a subshell that ends at its first error, and remembers how it went: in the table, and in LAST.
# It never fails itself, and must not be called in a condition (`stage … || …`): bash would ignore errors in CMD there.
LAST=0
stage() {
  local name=$1 began; shift
  printf '\n==> %s\n' "$name"
  began=$(date +%s%N)
  set +e; (set -e; "$@"); LAST=$?; set -e
  if [ $LAST = 0 ]; then PASSED=$((PASSED + 1)); _record ok "$(_seconds "$began")" "$name"; else
    FAILED=$((FAILED + 1)); _record FAILED "$(_seconds "$began")" "$name"
  fi
}

# skip NAME REASON: says what was not done and why. In CI (CI=true) nothing may be skipped.
skip() {
  printf '\n==> %s: skipped: %s\n' "$1" "$2"
  if [ "${CI:-}" = true ]; then FAILED=$((FAILED + 1)); _record FAILED - "$1 (not possible here: $2)"; else
    SKIPPED=$((SKIPPED + 1)); _record skipped - "$1: $2"
  fi
}

# summary: a table of all stages; fails if one failed
summary() {
  printf '\n'; [ ${#STAGES[@]} = 0 ] || printf '%s\n' "${STAGES[@]}"
  [ $SKIPPED != 0 ] || printf 'nothing was skipped\n'
  [ $FAILED = 0 ]
}
