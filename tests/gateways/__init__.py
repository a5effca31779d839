"""Real gateways in front of the running platform: `make test-gateways`, not part of `make test`."""
