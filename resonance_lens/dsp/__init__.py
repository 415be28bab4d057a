"""Signal processing: batched functions of tensors and signals that never see a model."""
