"""What long jobs share: a folder filled part by part, whose manifest says how far it is; a kill costs one part."""
