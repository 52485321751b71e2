"""`userfault vm`: guests of KVM whose pages come when they touch them."""
