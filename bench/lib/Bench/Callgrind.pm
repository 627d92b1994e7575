# Instructions, counted by valgrind's callgrind: the same in every run, whatever else the machine does.
package Bench::Callgrind;

use strict;
use warnings;

use Exporter 'import';

use Bench qw(quick);
use Test::Memstat::Proc qw(read_file);

our @EXPORT_OK = qw(by_part counts more outside_malloc per_request profile under);

# How many requests come before those that are counted, and how many are. Between the first and the sum
# lies no power of 2, at which creators of pools are looked up.
my ($BEFORE, $COUNTED) = (1100, quick(900, 100));

# What a program calls to get and give back memory.
my %IS_MALLOC = map { $_ => 1 }
    qw(malloc calloc realloc free posix_memalign memalign aligned_alloc malloc_usable_size);

# The sections that run nginx under callgrind, as a single process that looks at the clock no more than
# it must.
sub under {
    return (
        main_config => "master_process off;\ntimer_resolution 1h;\n",
        under       => 'valgrind --tool=callgrind --smc-check=all'
            . ' --callgrind-out-file=$TEST_NGINX_SERVER_ROOT/profile'
            . ' --log-file=$TEST_NGINX_SERVER_ROOT/log.%p',
    );
}

# The counts of one request to a server that runs under callgrind; ask: a function that sends it so many.
# A connection that is made or closed in the meantime counts too.
sub per_request {
    my ($t, $ask) = @_;
    my $counts = counts(profile($t, $ask, $BEFORE, $COUNTED));
    $_ /= $COUNTED for @$counts{qw(all malloc module)};
    for my $function (values %{ $counts->{functions} }) { $_ /= $COUNTED for values %$function }
    return $counts;
}

# The profile of so many requests after so many others, which ends the server.
sub profile {
    my ($t, $ask, $before, $counted) = @_;
    $ask->($before);
    control($t, '--zero');
    $ask->($counted);
    control($t, '--dump');
    my $profile = read_file($t->root . '/profile.1') // die "callgrind wrote no profile\n";
    my @wrong = $t->stop;
    die "nginx under callgrind: @wrong\n" if @wrong;
    return $profile;
}

sub control {
    my ($t, $command) = @_;
    my $said = `callgrind_control $command @{[ $t->master ]} 2>&1`;
    die "callgrind_control $command: $said\n" unless $said =~ /^\s*OK/m;
    return;
}

# The counts in a profile: all, malloc (with what malloc itself calls; glibc's way through its lists
# depends on where blocks happen to lie), module (what the module's own code takes), and of each function
# of the module how often it is called and what it takes itself. Of another object than the module with a
# pattern of its name.
sub counts {
    my ($profile, $name) = @_;
    my $is_module = sub { $_[0] =~ ($name // qr/memstat[^\/]*\.so/) };
    my %sum = (all => 0, malloc => 0, module => 0, functions => {});
    each_cost($profile,
        sub {
            my ($object, $function, $cost) = @_;
            $sum{all} += $cost;
            return unless $is_module->($object);
            $sum{module} += $cost;
            $sum{functions}{$function}{instructions} += $cost;
        },
        sub {
            my ($object, undef, $callee_object, $callee, $calls, $cost) = @_;
            $sum{malloc} += $cost if $IS_MALLOC{$callee} && !is_libc($object) && is_libc($callee_object);
            $sum{functions}{$callee}{calls} += $calls if $is_module->($callee_object);
        });
    return \%sum;
}

# Reads a profile. own: called with an object, a function and what that takes itself; call: with an object
# and a function, those that it calls, how often, and what they take with all that they call. The format
# is described in valgrind's manual: "ob=" and "fn=" name where the following costs were, "calls=" is
# followed by what the callee took.
sub each_cost {
    my ($profile, $own, $call) = @_;
    my (%names, $object, $function, $callee_object, $callee, $calls);
    my $name = sub { my ($kind, $id, $name) = @_; $names{"$kind$id"} = $name if defined $name; $names{"$kind$id"} };
    for (split /\n/, $profile) {
        if    (/^ob=\((\d+)\)(?: (.*))?/)  { $object = $name->(ob => $1, $2) }
        elsif (/^fn=\((\d+)\)(?: (.*))?/)  { $function = $name->(fn => $1, $2) }
        elsif (/^cob=\((\d+)\)(?: (.*))?/) { $callee_object = $name->(ob => $1, $2) }
        elsif (/^cfn=\((\d+)\)(?: (.*))?/) { $callee = $name->(fn => $1, $2) }
        elsif (/^calls=(\d+)/)             { $calls = $1 }
        elsif (/^[+\-*\d]\S* (\d+)$/) {
            if (defined $calls) {
                $call->($object, $function, $callee_object // $object, $callee, $calls, $1);
                undef $calls;
                undef $callee_object;
            }
            else {
                $own->($object, $function, $1);
            }
        }
    }
    return;
}

# What the parts of a program take: a hash. part: says of an object and a function which part it is of,
# if any; what a function of none takes is its callers', by what each has it do.
sub by_part {
    my ($profile, $part) = @_;
    my (%part, %left, %callers, %sum);
    my $place = sub {
        my ($object, $function) = @_;
        my $place = "$object\0$function";
        $part{$place} = $part->($object, $function) unless exists $part{$place};
        return $place;
    };
    each_cost($profile,
        sub { my ($object, $function, $cost) = @_; $left{ $place->($object, $function) } += $cost },
        sub {
            my ($object, $function, $callee_object, $callee, undef, $cost) = @_;
            my ($from, $to) = ($place->($object, $function), $place->($callee_object, $callee));
            $callers{$to}{$from} += $cost if $from ne $to;
        });
    # So often, for those of none may call each other in a circle.
    for (1 .. 100) {
        my %above;
        while (my ($place, $cost) = each %left) {
            my $callers = $callers{$place};
            if (defined $part{$place} || !$callers) {
                $sum{ $part{$place} // '' } += $cost;
                next;
            }
            my $all = 0;
            $all += $_ for values %$callers;
            $above{$_} += $cost * $callers->{$_} / $all for $all ? keys %$callers : ();
        }
        %left = %above;
    }
    return \%sum;
}

# What a request takes more in one server than in another, malloc aside.
sub more {
    my ($with, $without) = @_;
    return ($with->{all} - $with->{malloc}) - ($without->{all} - $without->{malloc});
}

# The instructions outside malloc, and those of malloc, as a cell of a table.
sub outside_malloc { return sprintf '%.0f + %.0f', $_[0]{all} - $_[0]{malloc}, $_[0]{malloc} }

sub is_libc { return $_[0] =~ /\/libc[.-][^\/]*$/ }

1;
