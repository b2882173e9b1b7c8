"""The doors: command line and, later, servers. The only place that parses arguments, prints or picks a device."""
