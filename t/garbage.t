# Random garbage in the module's shared memory, and in requests. TEST_NGINX_COUNT: the number of rounds
# (150).
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

sub rounds { return $ENV{TEST_NGINX_COUNT} // 150 }

# Returns the address of the slots in a worker. The module's zone is the only one of its size, and the
# address of its first page is at offset 88 (ngx_slab_pool_t, start).
sub slots {
    my ($pid, $size) = @_;
    my ($zone) = grep { $_->{rights} eq 'rw-s' && $_->{size} == $size } maps($pid);
    open my $memory, '+<:raw', "/proc/$pid/mem" or die "cannot open the memory of $pid: $!\n";
    my $start = unpack 'Q<', at($memory, $zone->{from} + 88, 8);
    return ($memory, $start, $zone->{to} - $start);
}

sub at {
    my ($memory, $address, $length) = @_;
    sysseek $memory, $address, 0;
    sysread $memory, my $bytes, $length;
    return $bytes;
}

sub put {
    my ($memory, $address, $bytes) = @_;
    sysseek $memory, $address, 0;
    syswrite($memory, $bytes) or die "cannot write: $!\n";
    return;
}

sub random_bytes { return join '', map { chr int rand 256 } 1 .. $_[0] }

run_tests();

__DATA__

=== TEST 1: garbage in the slots
--- main_config
worker_processes 3;
--- http_config
memstat_zone size=1236k;
--- config
location /memstat { memstat; memstat_timeout 100ms; }
location /empty { return 204; }
--- perl
srand 1;
my @workers = $t->workers;
$t->fresh;
my ($memory, $start, $length) = slots($workers[0], 1236 * 1024);
cmp_ok $length, '>', 32 * 32768, 'room for many slots';
my ($unread, @wrong) = (0);
for my $round (1 .. rounds()) {
    # The workers have slots among the first. Each slot begins with a header.
    my $slot = $start + 32768 * int rand 5;
    for (1 .. 16) {
        my $offset = rand() < 0.5 ? 8 * int rand 16 : 8 * int rand 600;
        my $value = (random_bytes(8), "\0" x 8, "\xff" x 8, pack('Q<', int rand 70000))[ int rand 4 ];
        put($memory, $slot + $offset, $value);
    }
    my $answer = $t->get('/memstat');
    push @wrong, "status $answer->{status}" if $answer->{status} != 200;
    my $reply = eval { $t->decode($answer->{body}) } or push @wrong, $@;
    $unread++ if grep { grep { /slot|snapshot/ } @{ $_->{notes} } } @{ $reply->{processes} };
}
is join("\n", @wrong), '', 'every answer is valid';
cmp_ok $unread, '>', 0, "some say what could not be read ($unread)";
is_deeply [ $t->workers ], \@workers, 'nobody died of it';
is $t->get('/empty')->{status}, 204, 'or hangs' for 1 .. 10;
put($memory, $start, "\0" x (32768 * 5));
$t->reload;
$t->wait_for('the next workers are fine', sub {
    my @known = grep { $_->{breakdown} && $_->{generation} == 2 } active_workers($t->fresh);
    return @known == 3;
});
pass 'the next workers are fine';

=== TEST 2: garbage in requests
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
srand 2;
my @workers = $t->workers;
my %seen;
my @words = (qw(format json text refresh heap fields pid zone = & % %00 %ff %26 + / ?), '', '..', "\xff");
for (1 .. 4 * rounds()) {
    my $query = join '', map { rand() < 0.2 ? chr(33 + int rand 94) : $words[ rand @words ] } 1 .. 1 + rand 12;
    $query =~ s/[#\s]//g;
    my $answer = $t->get("/memstat?$query");
    $seen{ $answer->{status} }++;
    if ($answer->{status} == 400 && $answer->{body} !~ /<html/) {
        like $answer->{body}, qr/^[ -~]{1,300}\n\z/, 'a sentence' or diag $query;
    }
}
ok !(grep { !/^(?:200|400|404)$/ } keys %seen), 'answered or refused' or diag join ' ', %seen;
cmp_ok $seen{400}, '>', 50, 'many refused';
for (1 .. rounds()) {
    my $client = $t->connect;
    eval { $client->write("GET /memstat HTTP/1.1\r\nHost: x\r\n" . random_bytes(int rand 300) . "\r\n\r\n"); 1 };
    $client->close;
}
is_deeply [ $t->workers ], \@workers, 'nobody died of it';
is scalar(active_workers($t->fresh)), 2, 'and both answer';
