"""Mathematics that several losses share: logits, pairs, frames, class weights, transport, spectra, adversaries."""
