"""Models that compose a backbone with a pixel decoder and a head, and the parts they share."""
