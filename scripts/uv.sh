# Sourced: the function uv, which resolves requirements, in an environment of its own (.venv-uv).
uv() {
  [ -x .venv-uv/bin/uv ] || { "${PYTHON:-python3}" -m venv .venv-uv && .venv-uv/bin/python -m pip install --quiet uv; }
  .venv-uv/bin/uv "$@"
}
