"""The manifests as they are rendered: valid, restricted, wired to what the processes really are."""
