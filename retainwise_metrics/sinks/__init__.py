"""Where batches go: one module per destination, all behind `base.Sink`."""
