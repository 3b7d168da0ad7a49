"""Workers that share parameters through servers."""
