# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# The packages feed's own file, at the place where its Makefiles look for it: so the Makefile of this
# feed is the one that would lie in the packages feed, to the letter.

include $(TOPDIR)/feeds/packages/lang/rust/rust-package.mk
