"""What nobody asked for: components of a site that live in a band and come back in prompt after prompt."""
