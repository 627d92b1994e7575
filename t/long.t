# Answers that are sent in several parts.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use IO::Uncompress::Gunzip qw(gunzip);

# The size of three parts.
our $LONG = 3 * 32 * 1024;

# Checks that a reply has all processes. Returns its length.
sub whole {
    my ($t, $json, $what) = @_;
    cmp_ok length $json, '>', $main::LONG, "$what: it is long";
    my $processes = $t->decode($json)->{processes};
    is scalar @$processes, 41, "$what: all processes are in it";
    return length $json;
}

run_tests();

__DATA__

=== TEST 1: every format, again and again on one connection
--- main_config
worker_processes 40;
--- config
location /memstat { memstat; }
--- perl
$t->fresh;
my $client = $t->connect;
for my $round (1 .. 2) {
    for my $format (qw(json html text prometheus)) {
        my $answer = $client->send(GET => "/memstat?format=$format")->receive;
        is $answer->{status}, 200, "$format: status";
        is length $answer->{body}, $answer->{headers}{'content-length'}, "$format: length";
        main::whole($t, $answer->{body}, 'JSON') if $format eq 'json';
    }
}
my $head = $client->send(HEAD => '/memstat')->receive('HEAD');
cmp_ok $head->{headers}{'content-length'}, '>', $main::LONG, 'HEAD has the length of GET';
is $client->send(GET => '/memstat?format=text')->receive->{status}, 200, 'and no body';
$client->write("GET /memstat HTTP/1.1\r\nHost: localhost\r\n\r\n" x 4);
main::whole($t, $client->receive->{body}, "pipelined, $_") for 1 .. 4;

=== TEST 2: a client that reads slowly, and others meanwhile
--- main_config
worker_processes 40;
--- http_config
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_1 sndbuf=4k;
    location /memstat { memstat; }
    location /few { memstat; sendfile_max_chunk 1k; }
    location /rate { memstat; limit_rate 400k; }
}
--- config
location /memstat { memstat; }
--- perl
$t->fresh;
for my $path (qw(/memstat /few /rate)) {
    my @slow = map { Test::Memstat::Client->new($t->port(1))->send(GET => $path)->begin } 1 .. 3;
    main::whole($t, $t->get('/memstat')->{body}, 'meanwhile');
    main::whole($t, $_->receive->{body}, "$path: slow") for @slow;
    # The connection can be used again.
    main::whole($t, $slow[0]->send(GET => $path)->receive->{body}, "$path: the next");
}

=== TEST 3: clients that go away in the middle leave nothing behind
--- main_config
worker_processes 40;
--- http_config
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_1 sndbuf=4k;
    location /memstat { memstat; }
}
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- perl
my $own = sub { return map { $_->{self}{bytes} } process_with($t->fresh, kind => 'worker') };
my ($before) = sort { $b <=> $a } $own->();
for my $i (1 .. 60) {
    my $client = Test::Memstat::Client->new($t->port(1))->send(GET => '/memstat');
    # Some close before there is an answer, the others while it is being sent, each after another byte.
    $client->begin->{socket}->sysread(my $some, 1000 * $i) if $i % 2;
    $client->close;
}
$t->wait_for('the requests are gone', sub { !$t->status->{active} });
# The body of a single reply would be more than that.
$t->wait_for('its memory is free', sub { !grep { $_ > $before + $main::LONG } $own->() });
main::whole($t, $t->get('/memstat')->{body}, 'afterwards');

=== TEST 4: through filters, in a subrequest, and on HTTP/1.0
--- main_config
worker_processes 40;
--- config
location /memstat { memstat; }
location /gzip { gzip on; gzip_types application/json; memstat; }
location /page { ssi on; ssi_types *; default_type text/plain; alias $TEST_NGINX_SERVER_ROOT/html/page; }
--- user_files
>>> page
[<!--# include virtual="/memstat" -->,<!--# include virtual="/memstat" -->]
--- perl
$t->fresh;
my $answer = $t->get('/gzip', headers => ['Accept-Encoding: gzip']);
is $answer->{headers}{'content-encoding'}, 'gzip', 'compressed';
gunzip(\$answer->{body}, \my $body);
main::whole($t, $body, 'compressed');
my $page = $t->get('/page')->{body};
my ($first, $second) = $page =~ /^\[(\{.*\})\n,(\{.*\})\n\]$/s;
main::whole($t, $first, 'the first subrequest');
main::whole($t, $second, 'the second');
my $old = $t->connect;
$old->write("GET /memstat HTTP/1.0\r\n\r\n");
main::whole($t, $old->receive->{body}, 'HTTP/1.0');
ok $old->at_end, 'and the connection ends';

=== TEST 5: HTTP/2
--- main_config
worker_processes 40;
--- http_config
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_1 http2;
    location /memstat { memstat; }
}
--- config
location /memstat { memstat; }
--- perl
$t->fresh;
my $url = 'http://127.0.0.1:' . $t->port(1) . '/memstat';
for my $way ('', '--limit-rate 200k') {
    main::whole($t, scalar `curl -sS --http2-prior-knowledge $way '$url'`, "HTTP/2 $way");
}
