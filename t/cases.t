# The cases of doc/diagnosis.md: each one runs on a small scale, and the guide's statements about its figures
# are true.
use strict;
use warnings;

use File::Temp;
use FindBin;
use JSON::PP;
use Test::More;

my $CASES = "$FindBin::Bin/../cases";
my $GUIDE = read_file("$FindBin::Bin/../doc/diagnosis.md");

sub read_file {
    my ($path) = @_;
    open my $file, '<', $path or die "cannot read $path: $!\n";
    local $/;
    return scalar <$file>;
}

# Runs a case. Returns the replies of /memstat at its blocks, and its facts.
sub run_case {
    my ($name) = @_;
    my $replies = File::Temp->new;
    my $said = `'$^X' '$CASES/$name' --small --replies '$replies' 2>&1`;
    is $?, 0, 'it runs' or die $said;
    my %blocks = $said =~ /^--- (\S+)\n(.*?)^---$/msg;
    my %in_guide = $GUIDE =~ /^<!-- \Q$name\E: (\S+) -->\n```\n(.*?)^```$/msg;
    ok scalar keys %in_guide, 'it is in the guide';
    for my $block (sort keys %in_guide) {
        # Without Lua, blocks that need it are missing.
        next if $ENV{TEST_NGINX_WITHOUT_LUA} && !defined $blocks{$block};
        my ($printed, $shown) = map { /\A(\$ .*)/ ? $1 : '' } $blocks{$block} // '?', $in_guide{$block};
        is $shown, $printed, "the guide has the command of $block";
        is words($in_guide{$block}), words($blocks{$block}), "and its first line" if !length $printed;
    }
    unlike $said, qr{/(?:tmp|work|home)/}, 'nothing of this machine is printed';
    return JSON::PP->new->utf8->decode(read_file("$replies"));
}

sub words { return join ' ', split ' ', ($_[0] =~ /\A(.*)/)[0] }

sub sum { my $sum = 0; $sum += $_ // 0 for @_; return $sum }

# Returns what each process did to a zone.
sub done_to {
    my ($reply, $zone, $what) = @_;
    return sum(map { $_->{zones}{$zone}{$what} } @{ $reply->{processes} });
}

# Returns the workers in an answer, the oldest generation first.
sub workers {
    my ($reply) = @_;
    my @workers = grep { $_->{kind} eq 'worker' } @{ $reply->{processes} };
    @workers = sort { $a->{generation} <=> $b->{generation} } @workers;
    return @workers;
}

sub held { my ($pool) = @_; return $pool->{bytes} + $pool->{large_bytes} }

sub requests {
    my ($process) = @_;
    return (grep { $_->{kind} eq 'request' } @{ $process->{pools}{by_creator} })[0];
}

# Passes if a figure is at least, or at most, a multiple of another.
sub at_least { my ($got, $share, $of, $name) = @_; return compare($got, '>=', $share * $of, $name) }
sub at_most  { my ($got, $share, $of, $name) = @_; return compare($got, '<=', $share * $of, $name) }

sub compare {
    my ($got, $operator, $limit, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 2;
    return cmp_ok $got, $operator, $limit, $name;
}

# Checks the verdicts of a reply: their ids, the worst first.
sub verdicts {
    my ($reply, $ids, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is_deeply [ map { $_->{id} } @{ $reply->{health}{verdicts} } ], $ids, $name;
}

sub without_lua { plan(skip_all => 'this nginx has no Lua') if $ENV{TEST_NGINX_WITHOUT_LUA}; return }

subtest 'dict-fills' => sub {
    without_lua();
    my $said = run_case('dict-fills');
    my $facts = $said->{facts};
    my ($live) = @{ $facts->{'before live'} };
    is_deeply [ grep { $_ != $live } @{ $facts->{'before live'} } ], [], 'as many live keys after each round';
    my @in_use = @{ $facts->{'before in_use'} };
    at_least($in_use[$_] - $in_use[ $_ - 1 ], 0.9, $in_use[0], "after $_ rounds it grows as in the first")
        for 1 .. $#in_use;
    my $zone = $said->{before}{shared_zones}{sessions};
    at_least($zone->{resident}, 1, $zone->{in_use}, 'what was used is in RAM');
    is done_to($said->{before}, sessions => 'frees'), 0, 'nothing is freed';
    at_least($facts->{flush_all}{in_use}, 0.99, $facts->{unflushed}{in_use},
        'flush_all frees next to nothing');
    at_most($facts->{flush_expired}{in_use}, 0.1, $facts->{unflushed}{in_use}, 'flush_expired does');
    is $facts->{flush_expired}{resident}, $facts->{unflushed}{resident}, 'and gives no page back';

    @in_use = @{ $facts->{'timer in_use'} };
    at_most($_, 2.5, $in_use[0], 'timer: the zone is bounded') for @in_use;
    @in_use = @{ $facts->{'after in_use'} };
    at_most($_, 1.1, $in_use[0], 'after: the zone stays as it is') for @in_use;
    my $after = $said->{after};
    at_least(done_to($after, sessions => 'frees'), 0.5, done_to($after, sessions => 'allocations'),
        'after: sessions are freed');
    at_most($after->{shared_zones}{sessions}{resident}, 0.6, $zone->{resident}, 'after: less is in RAM');
};

subtest 'slab-fragmentation' => sub {
    without_lua();
    my $said = run_case('slab-fragmentation');
    my $facts = $said->{facts};
    my $zone = $said->{'before-zone'}{shared_zones}{cache};
    my $page = $said->{'before-zone'}{page_size};
    at_least($zone->{pages}{free} * $page, 0.4, $zone->{size}, 'nearly half of the zone is free');
    verdicts($said->{'before-zone'}, [], 'no verdict before a page is stored');
    verdicts($said->{before}, ['zone-fragmented'], 'then the right one');
    verdicts($said->{'after-zone'}, [], 'and none after');
    at_least($zone->{pages}{free} * $page, 1, 102400 * $facts->{pages}, 'enough for all pages');
    at_most($zone->{largest_allocation}, 1, 102399, 'not for one in one piece');
    for my $variant (qw(before larger)) {
        at_most($facts->{"$variant stored"}, 0.5, $facts->{pages}, "$variant: most pages cannot be stored");
        at_least($facts->{"$variant failures"}, 10, $facts->{pages}, "$variant: failures");
        at_least($facts->{"$variant lost"}, 10, $facts->{pages}, "$variant: other values are lost");
    }
    my $after = $said->{'after-zone'}{shared_zones};
    at_least($after->{pages}{largest_allocation}, 1, 102400, 'after: there is room in one piece');
    at_most($after->{cache}{largest_allocation}, 1, 102399, 'after: not among the small values');
    is $facts->{'after stored'}, $facts->{pages}, 'after: all are stored';
    is $facts->{'after failures'}, 0, 'after: no failures';
    is $facts->{'after lost'}, 0, 'after: nothing is lost';
    is $after->{cache}{size} + $after->{pages}{size}, $zone->{size}, 'in as much memory';
};

subtest 'reload-doubles' => sub {
    my $said = run_case('reload-doubles');
    my $facts = $said->{facts};
    my ($old, $new) = workers($said->{before});
    is $old->{state}, 'shutting_down', 'an old worker';
    is $new->{state}, 'active', 'a new worker';
    is_deeply [ map { $_->{pools}{cycles}[0]{generation} } $old, $new ], [ 1, 2 ], 'each with its generation';
    my ($first, $second) = map { held($_->{pools}{cycles}[0]) } $old, $new;
    at_least($second, 0.95, $first, 'as large');
    at_least($first, 0.95, $second, 'one as the other');
    at_least($first, 0.5, $old->{system}{resident}, 'most of the process');
    at_least($new->{allocator}{free}, 0.9, $first, 'the new worker has the old cycle as free memory');

    my @workers = workers($said->{timeout});
    is_deeply [ map { $_->{generation} } @workers ], [2], 'timeout: only the new worker';
    at_least($workers[0]{allocator}{free}, 0.9, $first, 'timeout: it has the free memory still');

    @workers = workers($said->{after});
    is scalar @workers, 2, 'after: both are there';
    at_most(held($_->{pools}{cycles}[0]), 0.1, $first, 'after: with a small cycle') for @workers;

    my $resident = sub { $facts->{"$_[0] $_[1]"}{resident} };
    my $doubled = sub { $resident->("servers, $_[0]", 0) + 0.8 * $first };
    at_least($resident->('servers, glibc', 1), 1, $doubled->('glibc'), 'a reload doubles it');
    at_most($resident->('servers, glibc', 2), 1.1, $resident->('servers, glibc', 1),
        'another one does not');
    at_least($resident->('servers, jemalloc', 1), 1, $doubled->('jemalloc'), 'jemalloc: so does a reload');
    at_most($resident->('servers, jemalloc, no decay', 2), 1.2,
        $resident->('servers, jemalloc, no decay', 0), 'jemalloc without decay: it does not');
    at_most($resident->('map, glibc', 2), 0.5, $resident->('servers, glibc', 2), 'a map: little');
};

subtest 'lua-spike' => sub {
    without_lua();
    my $said = run_case('lua-spike');
    my $facts = $said->{facts};
    verdicts($said->{spike}, [], 'a spike under way needs no verdict');
    verdicts($said->{after}, [], 'nor a small footprint');
    my ($spike) = map { $_->{lua}[0] } workers($said->{spike});
    at_least($spike->{gc_bytes}, 0.5, $spike->{reserved}, 'spike: Lua holds it');
    my $before = $facts->{before};
    at_least($before->{free_bytes}, 0.5, $before->{reserved}, 'collected: more than half is free');
    at_most($before->{gc_bytes}, 0.1, $before->{reserved}, 'collected: Lua holds little');
    at_most($before->{largest_free}, 0.1, $before->{free_bytes}, 'in small pieces');
    at_least($before->{reserved}, 0.7, $spike->{reserved}, 'the footprint stays');
    for my $variant (qw(trim pause)) {
        at_least($facts->{$variant}{resident}, 0.8, $before->{resident}, "$variant: does not help");
    }
    at_most($facts->{shared}{resident}, 1, $before->{resident}, 'shared: helps a little');
    at_most($facts->{after}{resident}, 0.2, $before->{resident}, 'after: helps');
    at_least($facts->{after}{gc_bytes}, 0.7, $before->{gc_bytes}, 'after: as much is kept');
    at_most($facts->{reload}{resident}, 0.2, $before->{resident}, 'a reload: a new worker has little');
};

subtest 'slow-clients' => sub {
    my $said = run_case('slow-clients');
    my $facts = $said->{facts};
    my $clients = $facts->{clients};
    my %requests = map { $_ => requests((workers($facts->{$_}))[0]) } qw(before timeout buffers both);
    is $requests{before}{live}, $clients + 1, 'a request each, and the asking one';
    at_least($requests{before}{large_bytes}, 0.9, $clients * 900_000, 'each with the whole report');
    my ($worker) = workers($said->{before});
    at_least(held($requests{before}), 0.8, $worker->{allocator}{in_use}, 'that is what is in use');
    for my $pool (@{ $worker->{pools}{largest} }) {
        is $pool->{server_name}, 'reports.example.com', 'the server';
        like $pool->{request}, qr{^GET /reports/report\.csv }, 'the request line';
        cmp_ok $pool->{age_s}, '>=', 1, 'the age';
    }
    # One request is the one for these figures. Slow clients that got no CPU time may be gone, too.
    cmp_ok $requests{$_}{live}, '<=', $clients / 2 + 1, "$_: those who stopped to read are gone"
        for qw(timeout both);
    cmp_ok $requests{$_}{live}, '>', 1, "$_: those who read are there" for qw(timeout both);
    is $requests{buffers}{live}, $clients + 1, 'small buffers: all are there';
    at_most(held($requests{buffers}), 0.25, held($requests{before}), 'small buffers: with little');
    at_most(held($requests{both}), 0.6, held($requests{buffers}), 'both: the others have little');
};

subtest 'heap-fragmentation' => sub {
    my $said = run_case('heap-fragmentation');
    my $facts = $said->{facts};
    my ($busy) = map { $_->{allocator} } workers($said->{busy});
    at_least($busy->{in_use}, 0.8, $busy->{reserved}, 'busy: it is in use');
    my $before = $facts->{nothing};
    my $heap = sub { my $b = $_[0]{breakdown}; return ($b->{glibc_heap} // $b->{jemalloc})->{resident} };
    my $allocator = $before->{allocator};
    at_least($allocator->{free}, 0.8, $allocator->{reserved}, 'quiet: it is free');
    at_most($allocator->{in_use}, 0.2, $allocator->{reserved}, 'quiet: little is in use');
    at_least($heap->($before), 0.8, $busy->{reserved}, 'quiet: all of it is in RAM');
    is $allocator->{arenas}, 1, 'in one arena';
    for my $advice ('MALLOC_ARENA_MAX=1', 'MALLOC_TRIM_THRESHOLD_=0') {
        at_least($heap->($facts->{$advice}), 0.8, $heap->($before), "$advice does not help");
    }
    at_most($heap->($facts->{'jemalloc, no decay'}), 0.4, $heap->($before), 'jemalloc without decay helps');
    return if $ENV{TEST_NGINX_WITHOUT_LUA};
    my $trimmed = $facts->{'lua_malloc_trim 100'};
    at_most($heap->($trimmed), 0.4, $heap->($before), 'lua_malloc_trim helps');
    # If nothing in use lies above it, the heap itself is cut; otherwise only pages are given back.
    my $cut = $allocator->{reserved} - $trimmed->{allocator}{reserved};
    at_least($trimmed->{allocator}{free} + ($cut > 0 ? $cut : 0), 0.8, $allocator->{free}, 'and free is what it was, or cut');
};

done_testing();
