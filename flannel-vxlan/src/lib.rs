//! flannel-vxlan
