# Many zones: their failures, and the memory that reading them touches.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Returns the resident bytes of a process's shared mappings, by address and size.
sub shared_rss {
    my ($pid) = @_;
    my (%rss, $mapping);
    for (split /\n/, read_file("/proc/$pid/smaps")) {
        $mapping = /^([0-9a-f]+)-([0-9a-f]+) rw-s/ ? "$1 " . (hex($2) - hex $1) : undef if /^[0-9a-f]+-/;
        $rss{$mapping} = $1 * 1024 if defined $mapping && /^Rss:\s+(\d+) kB/;
    }
    return \%rss;
}

# Adds more keys than fit into a zone of 32 KB.
sub overfill {
    my ($t) = @_;
    my $key = 'x' x 200;
    $t->get("/limited?k=$_$key") for 1 .. 200;
    return;
}

run_tests();

__DATA__

=== TEST 1: more zones than 512 are told apart, and looking touches none
--- http_config eval
CORE::join "\n", (map { "limit_req_zone \$arg_k zone=zone_$_:32k rate=1000r/s;" } 1 .. 600)
--- config
location /memstat { memstat; }
location /limited { limit_req zone=zone_7 burst=1000 nodelay; empty_gif; }
--- perl
my ($worker) = $t->workers;
my $before = shared_rss($worker);
$t->fresh('/memstat?refresh=zones') for 1 .. 3;
my $reply = $t->fresh('/memstat?refresh=zones');
my $after = shared_rss($worker);
my @zones = grep { / 32768$/ } sort keys %$after;
is scalar(@zones), 600, 'their mappings';
is_deeply [ grep { $after->{$_} != $before->{$_} } @zones ], [], 'what is in RAM of them is what was';
my $uses = process_of($reply, $worker)->{zones};
is_deeply [ grep { $uses->{$_}{touched} } grep { /^zone_/ } keys %$uses ], [], 'touched: nothing';
my $zones = $reply->{shared_zones};
is_deeply [ grep { !defined $zones->{$_}{failures} } grep { /^zone_/ } sort keys %$zones ], [],
    'failures are known';
is_deeply [ grep { !defined $zones->{$_}{in_use} } grep { /^zone_/ } sort keys %$zones ], [],
    'what is in use is known';

overfill($t);
my $victim = $t->fresh->{shared_zones}{zone_7};
my $fails = sum(map { $_->{fails} } values %{ $victim->{slots} });
cmp_ok $fails, '>', 50, 'allocations failed';
is $victim->{failures}, $fails + $victim->{pages}{fails}, 'failures';
is $victim->{failures_at_least}, $victim->{failures}, 'which is the bound';

=== TEST 2: without the slab hook failures have a lower bound
--- main_config
--- http_config
limit_req_zone $arg_k zone=one:32k rate=1000r/s;
limit_req_zone $arg_k zone=other:32k rate=1000r/s;
memstat_hooks pool lua thread;
--- config
location /memstat { memstat; }
location /limited { limit_req zone=one burst=1000 nodelay; empty_gif; }
--- perl
overfill($t);
my $zones = $t->fresh->{shared_zones};
my $fails = sum(map { $_->{fails} } values %{ $zones->{one}{slots} });
cmp_ok $fails, '>', 50, 'allocations failed';
is $zones->{one}{failures}, undef, 'whole pages are not counted';
is $zones->{one}{failures_at_least}, $fails, 'slots are';
is $zones->{other}{failures_at_least}, 0, 'none here';
like "@{ $zones->{one}{notes} }", qr/failures_at_least/, 'a note says so';
like $t->get('/memstat?format=text')->{body}, qr/^one +>=$fails /m, 'the text';
like $t->get('/memstat?format=text&zone=one')->{body}, qr/^one .* >=$fails$/m, 'the text of the zone';
like $t->get('/memstat?format=html')->{body}, qr/a lower bound[^>]*>\x{e2}\x{89}\x{a5} $fails</, 'the page';
my $metrics = $t->get('/memstat?format=prometheus')->{body};
like $metrics, qr/^nginx_memstat_zone_failures_at_least_total\{zone="one"\} $fails$/m, 'the metrics';
unlike $metrics, qr/^nginx_memstat_zone_failures_total\{zone="one"\}/m, 'which name it for what it is';
