# Sourced at the end of a script: how vu gets onto the PATH of the shell that called it.
echo "vu is in .venv/bin; to have it on the PATH of this shell: source .venv/bin/activate" >&2
