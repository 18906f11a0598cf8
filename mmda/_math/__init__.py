"""Mathematics shared by several losses: logits, pairs, frames, class weights, transport, spectra, discriminators."""
