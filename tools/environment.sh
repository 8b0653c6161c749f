#!/bin/sh
# Make .venv and install requirements.txt into it. $1: the Python to use, or nothing.
set -eu

usable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1
}

python=
for candidate in ${1:+"$1"} python3 python3.11 python3.12 python3.13 python3.14 python; do
    if usable "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or newer with its venv module is needed and was not found." >&2
    echo "  Debian, Ubuntu:  apt-get install python3 python3-venv" >&2
    echo "  Fedora:          dnf install python3" >&2
    echo "  macOS:           brew install python" >&2
    echo "Then run make again, or name one: make book PYTHON=/path/to/python3.12" >&2
    exit 1
fi

# Torch alone is a large download, so say what is going on.
echo "environment: .venv with $("$python" --version), the first time takes some minutes"
[ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
# A pipe keeps only the last command's exit status, hence the file.
rm -f .venv/failed
{ .venv/bin/python -m pip install --no-input --progress-bar off -r requirements.txt \
    || touch .venv/failed; } | grep -v '^Requirement already satisfied' || true
[ ! -e .venv/failed ] || { echo "the installation failed; see above" >&2; exit 1; }
