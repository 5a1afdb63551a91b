"""Devices that engines are built and measured on, reached by OpenSSH and rsync as the user has them."""
