"""What happens to rows between the files and the network: augmentation, variations, transverse energies, targets."""
