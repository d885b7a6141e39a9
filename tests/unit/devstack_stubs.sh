# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154 # shared with the plugin
# What the plugin uses of DevStack, small: calls go to $CALLS, files and lists are real.

CONTROLLER=key,n-api,n-cpu,n-cond,n-sch,n-novnc,placement-api,g-api,q-svc,q-ovn-agent,tempest
ENABLED_SERVICES=${ENABLED_SERVICES-$CONTROLLER}
DISABLED_SERVICES=
Q_ML2_PLUGIN_MECHANISM_DRIVERS=${Q_ML2_PLUGIN_MECHANISM_DRIVERS:-ovn}
PHYSICAL_NETWORK=${PHYSICAL_NETWORK:-public}
STACK_USER=$(id -un)
SYSTEMCTL="sudo systemctl"
NOVA_CONF=$NOVA_CONF_DIR/nova.conf
NOVA_CPU_CONF=$NOVA_CONF_DIR/nova-cpu.conf
NOVA_CPU_CELL=1
NOVA_MY_IP=192.0.2.1
NOVA_READY_TIMEOUT=30
SERVICE_HOST=192.0.2.1
NEUTRON_CONF_FILES="--config-file $NEUTRON_CONF_DIR/neutron.conf"
NEUTRON_CONF_FILES+=" --config-file $NEUTRON_CONF_DIR/plugins/ml2/ml2_conf.ini"
NEUTRON_UWSGI_CONF=$NEUTRON_CONF_DIR/neutron-api-uwsgi.ini
TEMPEST_CONFIG=$DATA_DIR/tempest.conf

function record {
    printf '%s\n' "$*" >>"$CALLS"
}

for name in define_plugin echo_summary install_package pip_install setup_package; do
    eval "function $name { record $name \"\$@\"; }"
done

function pip_uninstall {
    record pip_uninstall "$1" from "$PIP_VIRTUAL_ENV"
}

function die {
    echo "[ERROR] $2" >&2
    exit 1
}

function warn {
    echo "[WARNING] $2" >&2
}

function trueorfalse {
    case "${!2:-$1}" in
        1 | [yY]es | [tT]rue) echo True ;;
        *) echo False ;;
    esac
}

# Services

function is_service_enabled {
    local service
    for service in "$@"; do
        if [[ ",$ENABLED_SERVICES," == *",$service,"* ]]; then
            return 0
        fi
        # DevStack asks for no comma behind it
        if [[ "$service" == n-cpu-* && ",$ENABLED_SERVICES" == *",n-cpu"* ]]; then
            return 0
        fi
    done
    return 1
}

function enable_service {
    if ! is_service_enabled "$1"; then
        ENABLED_SERVICES+=",$1"
    fi
}

function disable_service {
    local services=",$ENABLED_SERVICES,"
    services=${services//,$1,/,}
    services=${services#,}
    ENABLED_SERVICES=${services%,}
    DISABLED_SERVICES+=",$1"
}

function run_process {
    if is_service_enabled "$1"; then
        record run_process "$@"
    fi
}

function stop_process {
    if is_service_enabled "$1"; then
        record stop_process "$@"
        if [[ -f "$SYSTEMD_DIR/devstack@$1.service" ]]; then
            $SYSTEMCTL stop "devstack@$1.service"
        fi
    fi
}

function write_user_unit_file {
    mkdir -p "$SYSTEMD_DIR"
    iniset -sudo "$SYSTEMD_DIR/$1" Service ExecStart "$2"
    iniset -sudo "$SYSTEMD_DIR/$1" Service User "$4"
}

function test_with_retry {
    timeout "$3" sh -c "while ! $1; do sleep 0.1; done" || die "$LINENO" "$2"
}

# Neutron

function neutron_server_config_add {
    NEUTRON_CONF_FILES+=" --config-file $1"
}

function determine_config_files {
    echo "$NEUTRON_CONF_FILES"
}

# Files: iniset [-sudo] FILE SECTION OPTION VALUE

function iniset {
    if [[ "$1" == -sudo ]]; then
        shift
    fi
    [[ $# == 4 ]] || die "$LINENO" "iniset takes four words, not $*"
    touch "$1"
    awk -v section="[$2]" -v option="$3" -v value="$4" '
        function put() { if (inside && !done) { print option " = " value; done = 1 } }
        /^\[/ { put(); inside = ($0 == section) }
        inside && index($0, option " = ") == 1 { put(); next }
        { print }
        END { if (!done && !inside) print section; inside = 1; put() }
    ' "$1" >"$1.new"
    mv "$1.new" "$1"
}
