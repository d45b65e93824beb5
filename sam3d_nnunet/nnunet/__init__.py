"""Everything that touches nnU-Net's installation: names of classes, registration, doctor, folders."""
