<?php
// php check.php {addr}: asks the php-fpm at HOST:PORT or at /PATH for /health in FastCGI, as a web server does. Exit
// status 0 when the answer is 200 (php-fpm says a status only when it is another one), else 1 and the answer.
$address = $argv[1][0] === '/' ? "unix://$argv[1]" : "tcp://$argv[1]";
$fpm = stream_socket_client($address, $code, $error);
if (!$fpm) {
    exit(1); // PHP has said why. (Not exit("words"), whose status is 0.)
}

$record = fn (int $kind, string $content) => pack('CCnnCC', 1, $kind, 1, strlen($content), 0, 0) . $content;
$params = '';
foreach ([
    'REQUEST_METHOD' => 'GET',
    'REQUEST_URI' => '/health',
    'SCRIPT_NAME' => '/index.php',
    'SCRIPT_FILENAME' => __DIR__ . '/index.php',
    'SERVER_PROTOCOL' => 'HTTP/1.1',
] as $name => $value) {
    $params .= pack('NN', strlen($name) | 1 << 31, strlen($value) | 1 << 31) . $name . $value;
}
// BEGIN_REQUEST as a responder, PARAMS and their end, STDIN's end.
fwrite($fpm, $record(1, pack('nCx5', 1, 0)) . $record(4, $params) . $record(4, '') . $record(5, ''));

$answer = '';
while (strlen($head = (string) stream_get_contents($fpm, 8)) === 8) {
    ['kind' => $kind, 'length' => $length, 'padding' => $padding] = unpack('Cversion/Ckind/nid/nlength/Cpadding', $head);
    $content = $length + $padding > 0 ? stream_get_contents($fpm, $length + $padding) : '';
    if ($kind === 6 || $kind === 7) { // STDOUT, STDERR
        $answer .= substr($content, 0, $length);
    }
    if ($kind === 3) { // END_REQUEST
        $well = str_contains($answer, "\r\n\r\n") && !preg_match('/^Status: (?!2)/mi', $answer);
        fwrite(STDERR, $well ? '' : $answer);
        exit($well ? 0 : 1);
    }
}
fwrite(STDERR, "the answer was cut short: $answer\n");
exit(1);
