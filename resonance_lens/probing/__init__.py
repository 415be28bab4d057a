"""What can be read from activations, in which band and at which layer: probes beside their controls."""
