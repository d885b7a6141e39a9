# SPDX-License-Identifier: Apache-2.0
"""How Sphinx builds the documents; `make docs` turns its warnings into errors."""

project = "nova-smartos"
copyright = "the nova-smartos authors"
extensions = ["oslo_config.sphinxext", "reno.sphinxext"]
html_theme = "alabaster"
html_theme_options = {"description": "SmartOS for OpenStack", "fixed_sidebar": True}
html_show_sourcelink = False
nitpicky = True
