<?php
// A release that does not parse.
echo 'broken' broken;
