"""4DCT: the phases of a breath, registered to one of them or to their mean."""
