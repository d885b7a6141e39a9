# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154 # settings has been read, and lib/smartos with it
# DevStack sources this file at each of its phases: plugin.sh MODE [PHASE].

# Save trace setting
_XTRACE_NOVA_SMARTOS=$(set +o | grep xtrace)
set +o xtrace

case "$1 ${2:-}" in
    "stack pre-install")
        echo_summary "Checking the settings of nova-smartos"
        smartos_check_settings
        smartos_install_packages
        ;;
    "stack install")
        echo_summary "Installing nova-smartos"
        smartos_install
        ;;
    "stack post-config")
        echo_summary "Configuring Neutron and Nova for SmartOS nodes"
        smartos_configure
        ;;
    "stack extra")
        echo_summary "Starting a nova-compute for each SmartOS node"
        smartos_start
        if is_service_enabled g-api; then
            smartos_create_images
        fi
        if is_service_enabled n-api; then
            smartos_create_flavors
        fi
        ;;
    "stack test-config")
        if is_service_enabled tempest; then
            echo_summary "Telling Tempest what SmartOS nodes do"
            smartos_configure_tempest
        fi
        ;;
    "unstack ")
        smartos_stop
        ;;
    "clean ")
        smartos_clean
        ;;
esac

# Restore xtrace
$_XTRACE_NOVA_SMARTOS
