"""Reads PyTorch programs from files of ``torch.export.save``, and makes modules of them that can be run."""
