# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# LuCI's own file, at the place where the Makefiles of its applications look for it.

include $(TOPDIR)/feeds/luci/luci.mk
