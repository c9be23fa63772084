#!/bin/sh
exec java -cp "$CLASSES" Plugin <&3 >&3
