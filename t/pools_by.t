# Pools by server, upstream and listening socket: each sum agrees with the connections that a test holds.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use IO::Socket::INET;

my @WAYS   = qw(by_server by_upstream by_listener);
my %SHARED = map { $_ => 1 } qw(connection request http2_stream upstream);

# Returns the pools of the only worker, after a check that the sums by server, upstream and listening socket
# are those of the kinds.
sub pools_of {
    my ($t) = @_;
    my ($worker) = $t->workers;
    my $pools = process_of($t->fresh, $worker)->{pools};
    for my $way (@WAYS) {
        my @parts = (@{ $pools->{$way}{largest} }, @{ $pools->{$way} }{qw(other none)});
        for my $figure (qw(live bytes large_bytes)) {
            my $all = sum(map { $_->{$figure} } grep { $SHARED{ $_->{kind} } } @{ $pools->{by_creator} });
            is sum(map { $_->{$figure} } @parts), $all, "$way: the sums of $figure are all there is";
        }
    }
    return $pools;
}

# Returns the entry of one name.
sub of_name {
    my ($pools, $way, $name) = @_;
    my ($share) = grep { $_->{name} eq $name } @{ $pools->{$way}{largest} };
    return $share // { live => 0, bytes => 0, large_bytes => 0 };
}

sub bytes_of { return $_[0]{bytes} + $_[0]{large_bytes} }

# Accepts the next connection to a socket.
sub taken {
    my ($server) = @_;
    $server->timeout(60);
    return scalar($server->accept) // die "nobody came: $!\n";
}

run_tests();

__DATA__

=== TEST 1: requests that are held on two servers, of two upstreams
--- main_config
worker_processes 1;
--- http_config
request_pool_size 16k;
connection_pool_size 1k;
upstream backend { server 127.0.0.1:$TEST_NGINX_PORT_1; }
server {
    listen 127.0.0.1:$TEST_NGINX_SERVER_PORT;
    server_name a.example;
    location / { proxy_pass http://backend; proxy_buffering off; }
}
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_2;
    server_name b.example alias.example;
    request_pool_size 32k;
    location / { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
}
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_2;
    server_name "";
    location / { proxy_pass http://backend; }
}
--- config
location /memstat { memstat; }
--- perl
my $upstream = silent_server($t->port(1));
my $before   = pools_of($t);
my (@clients, @held);
my $hold = sub {
    my ($count, $port, $host) = @_;
    for (1 .. $count) {
        my $client = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") // die "cannot connect: $!\n";
        $client->syswrite($host ? "GET /x HTTP/1.1\r\nHost: $host\r\n\r\n" : "GET /x HTTP/1.0\r\n\r\n");
        push @clients, $client;
        push @held, taken($upstream);
    }
};
$hold->(7, $t->port, 'a.example');
$hold->(5, $t->port(2), 'alias.example');
$hold->(2, $t->port(2), '');
my $pools = pools_of($t);
# Each request has the pools of its connection, of itself, and of the connection to the upstream.
my ($first, $second, $none) = map { of_name($pools, 'by_server', $_) } qw(a.example b.example), '';
is $first->{live}, 7 * 3, 'the first server has seven';
is $second->{live}, 5 * 3, 'the second one five, by its first name';
is $none->{live}, 2 * 3, 'the one without a name two';
cmp_ok $first->{bytes}, '>=', 7 * (16384 + 1024), 'with their blocks';
cmp_ok $second->{bytes}, '>=', 5 * (32768 + 1024), 'the other one with larger ones';
cmp_ok bytes_of($second) - bytes_of(of_name($before, 'by_server', 'b.example')), '<', 5 * 65536, 'and no more';
is of_name($pools, 'by_server', 'localhost')->{live}, 2, 'the asking one is of its own server';

is of_name($pools, 'by_upstream', 'backend')->{live}, 9 * 2, 'requests and connections of the upstream';
is of_name($pools, 'by_upstream', '127.0.0.1:' . $t->port(1))->{live}, 5 * 2, 'and of the one without a block';
is $pools->{by_upstream}{none}{live}, 14 + 2, 'clients have none, nor has who asks';

is of_name($pools, 'by_listener', '127.0.0.1:' . $t->port(2))->{live}, 7 * 3, 'by address';
is of_name($pools, 'by_listener', '127.0.0.1:' . $t->port)->{live}, 7 * 3 + 2, 'and the other';
is $pools->{by_listener}{none}{live}, 0, 'nothing else';

my $prometheus = $t->get('/memstat?format=prometheus')->{body};
like $prometheus, qr/^nginx_memstat_pools_by_server_bytes\{[^}]*server="b\.example"[^}]*\} [1-9]/m, 'as a metric';
my $text = $t->get('/memstat?format=text&fields=processes.pools')->{body};
like $text, qr/^server +b\.example +15 /m, 'as text';
like $text, qr/used or not/, 'which says what sizes are';
like $t->get('/memstat?format=html')->{body}, qr/by listening socket.*used or not|used or not.*by listening socket/s,
    'as a page';

$_->close for @clients, @held;
$t->wait_for('they are gone', sub { of_name(pools_of($t), 'by_server', 'b.example')->{live} == 0 });

=== TEST 2: sessions of stream at two addresses
--- main_config
worker_processes 1;
stream {
    proxy_buffer_size 64k;
    server { listen 127.0.0.1:$TEST_NGINX_PORT_1; proxy_pass 127.0.0.1:$TEST_NGINX_SERVER_PORT; }
    server { listen 127.0.0.1:$TEST_NGINX_PORT_2; proxy_pass 127.0.0.1:$TEST_NGINX_SERVER_PORT; proxy_buffer_size 4k; }
}
--- config
location /memstat { memstat; }
--- perl
my %count  = (1 => 6, 2 => 9);
my @opened = map { my $port = $_; map { IO::Socket::INET->new(PeerAddr => '127.0.0.1:' . $t->port($port)) } 1 .. $count{$port} } 1, 2;
$_->syswrite('GET') for @opened;
my ($large, $small);
$t->wait_for('the sessions', sub {
    my $pools = pools_of($t);
    ($large, $small) = map { of_name($pools, 'by_listener', '127.0.0.1:' . $t->port($_)) } 1, 2;
    $large->{live} == $count{1} && $small->{live} == $count{2} && bytes_of($large) >= 6 * 65536;
});
cmp_ok bytes_of($large), '<', 6 * 3 * 65536, 'the large buffers, and not many more';
cmp_ok bytes_of($small), '>=', 9 * 4096, 'the small ones';
cmp_ok bytes_of($small), '<', 9 * 32768, 'and not many more';
$_->close for @opened;

=== TEST 3: idle connections do not displace busy ones
--- main_config
worker_processes 1;
events { worker_connections 1024; }
--- http_config
keepalive_timeout 60s;
upstream kept { server 127.0.0.1:$TEST_NGINX_SERVER_PORT; keepalive 4; }
--- config
location /memstat { memstat; }
location /empty { return 200 "empty\n"; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
location /kept { proxy_pass http://kept/empty; proxy_http_version 1.1; proxy_set_header Connection ""; }
--- perl
my @idle = map { $t->connect->send(GET => '/empty') } 1 .. 30;
$_->receive for @idle;
# They must be a second older than the next ones. The cycle's age shows it, because they are not listed.
my $age = sub { process_of($t->fresh, ($t->workers)[0])->{pools}{cycles}[0]{age_s} };
my $then = $age->();
$t->wait_for('a second passes', sub { $age->() >= $then + 2 });
my $upstream = silent_server($t->port(1));
my @slow = map { $t->connect->send(GET => '/slow') } 1 .. 3;
my @held = map { taken($upstream) } @slow;
my $pools = pools_of($t);
cmp_ok scalar(grep { $_->{kind} eq 'request' } @{ $pools->{oldest} }), '>=', 3, 'requests are among the oldest';
is scalar(grep { $_->{kind} eq 'upstream' } @{ $pools->{oldest} }), 3, 'and so are their upstreams';
is $pools->{idle}{live}, 30, 'idle ones are counted';
is $pools->{idle}{bytes}, 30 * 512, 'with their blocks';

is $t->get('/kept')->{body}, "empty\n", 'a connection to an upstream is kept';
$pools = pools_of($t);
is $pools->{idle}{live}, 32, 'it is idle at both ends';
my $kept = of_name($pools, 'by_upstream', 'kept');
is $kept->{live}, 1, 'and is of its upstream still';
$_->close for @idle, @slow, @held;
