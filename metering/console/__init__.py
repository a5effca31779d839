"""The console's pages about usage: gateways, their windows, what could not be charged."""
