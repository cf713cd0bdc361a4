"""PyTorch programs: files of ``torch.export.save``, and programs as modules that can be run."""
