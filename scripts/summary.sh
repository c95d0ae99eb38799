#!/usr/bin/env bash
# Reads the output of cargo test (a log file), prints one line a suite, each failed test by name, and last a plain
# line `N passed, N failed`. Exits with 1 when something failed or nothing ran.
# A test that failed and then passed alone (scripts/retry.sh) is named as flaky and counts as passed.
#   usage: scripts/summary.sh LOG [EXIT-CODE-OF-CARGO]
set -euo pipefail

awk -v cargo="${2:-0}" '
  /^ *Running / { suite = $2; if (suite == "unittests") suite = $3; where = $NF; gsub(/[()]/, "", where)
                  sub(/.*\//, "", where); sub(/-[0-9a-f]+$/, "", where); suite = where " (" suite ")" }
  /^ *Doc-tests / { suite = $2 " (doc tests)" }
  /^test .* \.\.\. FAILED/ { failures[++n] = suite ": " $2 }
  /^flaky / { late[substr($0, 7)] = 1; flaky++ }
  /^test result:/ {
    passed += $4; failed += $6; ignored += $8
    if ($6 > 0) bad_suites++
    if ($4 + $6 > 0) printf "  %-44s %4d passed %3d failed  %s\n", suite, $4, $6, $NF
  }
  /^error: [0-9]+ targets? failed/ { bad_targets += $2 }
  /^error(\[E[0-9]+\])?: / && !/test failed/ && !/target.* failed/ { broken[++b] = $0 }
  END {
    passed += flaky; failed -= flaky
    if (flaky) { print "\nflaky (failed, then passed alone):"; for (name in late) print "  " name }
    if (failed) { print "\nfailed:"; for (i = 1; i <= n; i++) if (!(failures[i] in late)) print "  " failures[i] }
    if (b) { print "\nerrors:"; for (i = 1; i <= b && i <= 10; i++) print "  " broken[i] }
    # A suite that crashed or did not build leaves no result line: the exit code of cargo says so, or its count.
    if (bad_targets > bad_suites) failed += bad_targets - bad_suites
    if (cargo != 0 && failed == 0 && !flaky) failed = 1
    printf "\n%d passed, %d failed\n", passed, failed
    exit (failed > 0 || passed == 0)
  }' "$1"
