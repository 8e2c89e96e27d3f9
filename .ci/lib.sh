# shellcheck shell=bash
# What the scripts beside this file share. Sourced, not run.
#
# Nothing here touches a PostgreSQL that belongs to the system: servers and the extension live in private copies of
# private installations, are reached over unix sockets only, and are stopped by their data directory.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CI=$ROOT/.ci
EXT=pg_stepwise
ALL_MAJORS=(15 16 17 18)
PGRX_VERSION=$(sed -n 's/^pgrx = .*"=\([0-9.]*\)".*/\1/p' "$ROOT/Cargo.toml")
RUST_VERSION=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")

# BASE holds the PostgreSQL installations pg15 … pg18 and pgrx' configuration for each (pgrx15 …). As root it must be a place that the
# server's user can reach, which root's home is not.
if [ "$(id -u)" = 0 ]; then
  BASE=${PG_STEPWISE_HOME:-/opt/pg_stepwise}
  SERVER_USER=${PG_STEPWISE_RUN_AS:-$(getent passwd postgres >/dev/null && echo postgres || echo nobody)}
else
  BASE=${PG_STEPWISE_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/pg_stepwise}
  SERVER_USER=
fi

MONITORING=$BASE/monitoring

umask 022
# build.rs keeps pgrx' schema section by itself; pgrx' own way changes RUSTFLAGS and so builds everything twice.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGDATA PGOPTIONS PGSERVICE PGPASSFILE PGRX_PG_CONFIG_PATH
# A server that inherits it puts backtraces into the DETAIL of errors.
unset RUST_BACKTRACE
command -v cargo >/dev/null || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
[ ! -x "$BASE/cargo/bin/cargo-pgrx" ] || PATH=$BASE/cargo/bin:$PATH

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# quietly LOG COMMAND…: output goes to LOG, whose end is shown if the command fails.
quietly() {
  local log=$1; shift
  mkdir -p "$(dirname "$log")"
  "$@" >"$log" 2>&1 </dev/null && return
  echo "error: $* failed; the end of $log:" >&2
  tail -n 60 "$log" >&2
  return 1
}

# as_server COMMAND…: with the rights of the server's user and an empty environment.
as_server() (
  cd /
  exec 3>&- 9>&-  # the callers' locks and outputs are not the server's
  local env=(env -i HOME=/ PATH=/usr/bin:/bin LANG=C.UTF-8)
  [ -n "$SERVER_USER" ] || exec "${env[@]}" "$@"
  exec setpriv --reuid="$SERVER_USER" --regid="$(id -g "$SERVER_USER")" --clear-groups "${env[@]}" "$@"
)

# example_environment: NAME=VALUE for each thing that runs examples/workers in the tests, where .ci/setup --workers
# has put it, and where .ci/setup --monitoring has put Prometheus. The tests say what is missing.
example_environment() {
  printf '%s\n' "PG_STEPWISE_PYTHON=$ROOT/.build/venv/bin/python" "PG_STEPWISE_RUBY=/usr/bin/ruby" \
    "PG_STEPWISE_NODE=$(command -v node || echo /usr/bin/node)" "PG_STEPWISE_NODE_PATH=$ROOT/.build/node/node_modules" \
    "PG_STEPWISE_MONITORING=$MONITORING"
}

# majors [ARG…]: the majors asked for ("all" or none: every one), checked.
majors() {
  local v
  if [ $# = 0 ] || [ "$1" = all ]; then echo "${ALL_MAJORS[@]}"; return; fi
  for v in "$@"; do [[ " ${ALL_MAJORS[*]} " == *" $v "* ]] || die "no PostgreSQL $v here; known: ${ALL_MAJORS[*]} all"; done
  echo "$@"
}

# prefix_ready MAJOR
prefix_ready() { "$BASE/pg$1/bin/pg_config" --version >/dev/null 2>&1; }

# state_dir NAME: a directory that stays between runs. Below .build where the server's user can get there and where the
# path is fit for a socket (107 bytes in all, no blank); otherwise below /var/tmp, one for each checkout.
state_dir() {
  local d=$ROOT/.build/$1 top
  mkdir -p "$d"
  if [ ${#d} -le 80 ] && [[ $d != *[[:space:]]* ]] && as_server test -x "$d"; then echo "$d"; return; fi
  top=/var/tmp/$EXT-$(id -u)-$(printf %s "$ROOT" | cksum | cut -d' ' -f1)
  mkdir -p "$top"
  [ -O "$top" ] && [ ! -L "$top" ] || die "$top belongs to somebody else"
  mkdir -p "$top/$1"
  echo "$top/$1"
}

# pgrx_home MAJOR: pgrx insists that every PostgreSQL in its configuration exists, and generates its bindings anew when
# the file's time changes: so one configuration for each major, written once.
pgrx_home() { export PGRX_HOME=$BASE/pgrx$1; }

# write_pgrx_config MAJOR PG_CONFIG: into PGRX_HOME, if it differs.
write_pgrx_config() {
  local text
  text=$(printf '[configs]\npg%s = "%s"' "$1" "$2")
  mkdir -p "$PGRX_HOME"
  [ "$(cat "$PGRX_HOME/config.toml" 2>/dev/null)" = "$text" ] || printf '%s\n' "$text" >"$PGRX_HOME/config.toml"
}

# has_cron PREFIX: whether pg_cron is there.
has_cron() { [ -e "$("$1/bin/pg_config" --sharedir)/extension/pg_cron.control" ]; }

# copy_prefix MAJOR DEST: a private copy of an installation (hard links where possible: 0.1 s), so that nothing else
# sees what is installed into it. An up-to-date copy is kept.
copy_prefix() {
  local from=$BASE/pg$1 to=$2
  prefix_ready "$1" || die "PostgreSQL $1 is not set up: run .ci/setup $1"
  if [ "$("$to/bin/pg_config" --version 2>/dev/null)" = "$("$from/bin/pg_config" --version)" ] &&
    { ! has_cron "$from" || has_cron "$to"; }; then return; fi
  rm -rf "$to"; mkdir -p "$(dirname "$to")"
  cp -al "$from" "$to" 2>/dev/null || { rm -rf "$to"; cp -a "$from" "$to"; }
}

# install_extension MAJOR PG_CONFIG: build (profile $PROFILE: dev or release) and install there.
install_extension() {
  local flag=()
  case ${PROFILE:-release} in release) flag=(--release);; dev) ;; *) die "PROFILE is dev or release";; esac
  # Unlink first: the old files may be hard links, or mapped by a running server.
  rm -f "$("$2" --sharedir)/extension/$EXT".control "$("$2" --sharedir)/extension/$EXT"--*.sql \
    "$("$2" --pkglibdir)/$EXT".so
  pgrx_home "$1"
  (cd "$ROOT" && cargo pgrx install "${flag[@]}" --pg-config "$2" --no-default-features --features "pg$1 ${FEATURES:-}")
}

# start_cluster BINDIR DIR [SETTING…]: data in DIR/data (made if missing), socket in DIR/sock, log in DIR/server.log.
start_cluster() {
  local bin=$1 dir=$2 o s; shift 2
  if [ ! -e "$dir/data/PG_VERSION" ]; then
    rm -rf "$dir/data" "$dir/sock"; : >"$dir/server.log"
    mkdir -p "$dir/data" "$dir/sock"; chmod 700 "$dir/data"
    [ -z "$SERVER_USER" ] || chown "$SERVER_USER:$(id -g "$SERVER_USER")" "$dir"/{data,sock,server.log}
    as_server "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null
  fi
  o="-c listen_addresses= -c unix_socket_directories=$dir/sock"
  for s in "$@"; do o+=" -c $s"; done
  as_server "$bin/pg_ctl" -D "$dir/data" -s -w -t 60 -l "$dir/server.log" -o "$o" start >/dev/null ||
    { tail -n 30 "$dir/server.log" >&2; die "the server in $dir does not start"; }
}

cluster_runs() { [ -e "$2/data/PG_VERSION" ] && as_server "$1/pg_ctl" -D "$2/data" status >/dev/null 2>&1; }

# stop_cluster BINDIR DIR [fast|immediate]
stop_cluster() { ! cluster_runs "$1" "$2" || as_server "$1/pg_ctl" -D "$2/data" -m "${3:-fast}" -s -w stop; }
