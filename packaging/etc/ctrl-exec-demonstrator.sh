#!/bin/sh
# Shows what a script of ctrl-exec receives. Allow it in scripts.conf to try it:
#   demonstrator = /opt/ctrl-exec-scripts/ctrl-exec-demonstrator.sh
echo "user: $(id -un), directory: $(pwd), host: $(uname -n)"
echo "arguments: $#"
for word in "$@"; do printf '  [%s]\n' "$word"; done
echo "context on standard input:"
cat
echo
