"""What one task may borrow from another: similarity, clusters, and configs carried over."""

from tilewright.share.policy import Sharing

__all__ = ["Sharing"]
